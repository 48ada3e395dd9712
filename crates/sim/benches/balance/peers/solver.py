"""The fewest moves after which no host is above a limit and every machine has its memory.

The limits given are tried one after the other, until there is a solution within one.

Reads the question from standard input and answers on standard output, both JSON.
"""

import json
import sys

try:
    from ortools.sat.python import cp_model
except ImportError:
    print(json.dumps({"status": "missing"}))
    sys.exit()

# Loads are reckoned in whole millionths: rounded up, so that the limit is kept.
SCALE = 1_000_000
MIB = 1 << 20

question = json.load(sys.stdin)
hosts, machines = question["hosts"], question["machines"]


def attempt(limit, seconds):
    """The status, the solver and where each machine may be, for one limit."""
    model = cp_model.CpModel()
    on = []
    for machine in machines:
        home = machine["home"]
        places = range(len(hosts)) if machine["movable"] else [home]
        chosen = {host: model.new_bool_var("") for host in places}
        model.add_exactly_one(chosen.values())
        for host, variable in chosen.items():
            model.add_hint(variable, host == home)
        on.append(chosen)
    for index, host in enumerate(hosts):
        here = [(m, chosen[index]) for m, chosen in zip(machines, on) if index in chosen]
        load = sum(int(-(-m["loads"][index] * SCALE // 1)) * x for m, x in here)
        model.add(load <= int((limit - host["load"]) * SCALE))
        memory = sum(int(-(-m["memory"] // MIB)) * x for m, x in here)
        model.add(memory <= int(host["memory"] // MIB))
    model.minimize(sum(1 - chosen[m["home"]] for m, chosen in zip(machines, on)))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    return solver.solve(model), solver, on


# The bound is one for machines cut in pieces: on unlike hosts it may be out of reach, and then
# something farther from it is asked for.
limits = question["limits"]
answer = {"status": "unsolved", "detail": "nothing found"}
for limit in limits:
    status, solver, on = attempt(limit, question["seconds"] / len(limits))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        answer = {
            "status": "solved",
            "limit": limit,
            "proven": status == cp_model.OPTIMAL,
            "at_least": solver.best_objective_bound,
            "targets": [next(h for h, x in chosen.items() if solver.value(x)) for chosen in on],
        }
        break
print(json.dumps(answer))
