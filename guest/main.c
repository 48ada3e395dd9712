/* The guest's loop: read commands, do the work that is due, report, burn or sleep. */
#include "guest.h"

enum {
    BURN_PERMILLE_MAX = 1000,
    PERIOD_MS_MIN = 10,
    PERIOD_MS_MAX = 60000,
    PERIOD_MS_DEFAULT = 200,
    DIRTY_MIB_MAX = 4096,
    DIRTY_RATE_MIB_S_MAX = 10000,
    LINE_CHARS_MAX = 127,
    OWED_TICKS_MAX = CLOCK_TICKS_PER_S / 10, /* 100 ms */
    /* Long enough that reading the clock in between costs little, well under a millisecond. */
    SPIN_ROUNDS = 20000,
};

static uint32_t burn_permille;
static uint32_t period_ms = PERIOD_MS_DEFAULT;
static uint32_t sequence;
static uint32_t gap_ms_max;

static void field(const char *name, uint32_t value) {
    print(name);
    print_number(value);
}

static void report(void) {
    struct memory_status memory = memory_status();
    frame_begin();
    field("ek seq=", sequence++);
    field(" up_ms=", clock_ms());
    field(" gap_max_ms=", gap_ms_max);
    field(" burn=", burn_permille);
    field(" dirty=", memory.size_mib);
    field(":", memory.rate_mib_s);
    field(" checked=", memory.pages_checked);
    field(" bad=", memory.pages_bad);
    frame_end();
}

/* Obeys one command at `*text` and moves behind it; false, with nothing changed, if it is none. */
static bool obey(const char **text) {
    uint32_t value, rate;
    if (skip_prefix(text, "burn:") && read_number(text, BURN_PERMILLE_MAX, &value)) {
        burn_permille = value;
        return true;
    }
    if (skip_prefix(text, "dirty:") && read_number(text, DIRTY_MIB_MAX, &value) &&
        skip_prefix(text, ":") && read_number(text, DIRTY_RATE_MIB_S_MAX, &rate)) {
        memory_configure(value, rate);
        return true;
    }
    if (skip_prefix(text, "period:") && read_number(text, PERIOD_MS_MAX, &value) &&
        value >= PERIOD_MS_MIN) {
        period_ms = value;
        return true;
    }
    if (skip_prefix(text, "off")) {
        power_off();
        return true;
    }
    return false;
}

/* Obeys commands separated by commas up to a space or the end; says which one is no command. */
static bool obey_all(const char *text) {
    while (*text && *text != ' ') {
        const char *start = text;
        bool obeyed = obey(&text) && (*text == ',' || *text == ' ' || *text == '\0');
        if (!obeyed) {
            print("?no command: ");
            print(start);
            print("\r\n");
            return false;
        }
        if (*text == ',')
            text++;
    }
    return true;
}

/* The command line is at a fixed place in the PVH start info; its upper address half is zero. */
static void obey_command_line(const uint32_t *start_info) {
    enum { COMMAND_LINE_ADDRESS = 6 };
    const char *text = (const char *)start_info[COMMAND_LINE_ADDRESS];
    for (; text && *text; text++)
        if (skip_prefix(&text, "ek=")) {
            obey_all(text);
            return;
        }
}

/* Collects what arrives on the serial console and obeys whole lines. */
static void obey_console(void) {
    static char line[LINE_CHARS_MAX + 1];
    static uint32_t length;
    for (int c = serial_get(); c >= 0; c = serial_get()) {
        if (c != '\n' && c != '\r') {
            if (length < LINE_CHARS_MAX)
                line[length++] = (char)c;
            continue;
        }
        line[length] = '\0';
        if (length > 0 && obey_all(line))
            report();
        length = 0;
    }
}

static void spin(void) {
    for (volatile uint32_t i = 0; i < SPIN_ROUNDS; i++)
        ;
}

/*
 * Whether the CPU has been busy for less than its share. `was_idle` says what the time since the
 * last clock update was spent on; work other than burning counts as busy. What is owed, or was
 * done in excess, is forgotten beyond OWED_TICKS_MAX: a guest that was starved does not catch up.
 */
static bool owes_burning(bool was_idle) {
    const int64_t limit = (int64_t)OWED_TICKS_MAX * BURN_PERMILLE_MAX;
    static int64_t owed; /* thousandths of a clock tick */
    int64_t ticks = clock_delta_ticks();
    owed += ticks * burn_permille;
    if (!was_idle)
        owed -= ticks * BURN_PERMILLE_MAX;
    owed = owed > limit ? limit : owed < -limit ? -limit : owed;
    return owed > 0 || burn_permille == BURN_PERMILLE_MAX;
}

void guest_main(const void *start_info) {
    hardware_start();
    memory_start(start_info);
    obey_command_line(start_info);
    uint32_t last_ms = clock_ms(), due_ms = last_ms;
    bool idle = false;
    for (;;) {
        obey_console();
        clock_update();
        uint32_t now_ms = clock_ms(), elapsed_ms = now_ms - last_ms;
        last_ms = now_ms;
        if (elapsed_ms > gap_ms_max)
            gap_ms_max = elapsed_ms;
        memory_work(elapsed_ms);
        if ((int32_t)(now_ms - due_ms) >= 0) {
            report();
            due_ms = now_ms + period_ms;
        }
        idle = !owes_burning(idle) && !memory_never_idle();
        if (idle)
            cpu_idle();
        else
            spin();
    }
}
