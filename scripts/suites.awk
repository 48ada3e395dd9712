# Reads what `cargo test` prints, and prints a line for each suite as it ends: its name, how many
# tests passed, how long it took. Whatever is not the usual passes through: warnings, panics,
# failures with their output. The last line is the sum over all suites.

/^ +Running / {
    suite = $0
    sub(/^ +Running (unittests )?/, "", suite)
    file = suite
    sub(/^.*\(/, "", file); sub(/\)$/, "", file)
    sub(/ \(.*$/, "", suite)
    # Of a unit test only the file is named; the program's name tells the crate.
    sub(/^.*\//, "", file); sub(/-[0-9a-f]+$/, "", file); gsub(/_/, "-", file)
    if (suite ~ /^src\//) suite = file " " suite
    next
}
/^ +Doc-tests / { suite = $2 " documentation"; next }
/^running [0-9]+ tests?$/ { next }
/^test .* \.\.\. (ok|ignored.*)$/ { next }
/^test result: / {
    counts = $0
    gsub(/[;.]/, " ", counts)
    split(counts, word, / +/)
    for (i in word) {
        if (word[i] == "passed") ran = word[i - 1]
        if (word[i] == "failed") lost = word[i - 1]
    }
    passed += ran; failed += lost
    took = $0
    sub(/^.*finished in /, "", took)
    if (ran + lost > 0)
        printf "   %-58s %4d passed%s  %8s\n", suite, ran, (lost > 0 ? ", " lost " FAILED" : ""), took
    fflush()
    next
}
/^$/ { next }
{ print; fflush() }
END { printf "tests: %d passed, %d failed\n", passed, failed }
