"""`dpi-probe bench`: the whole probe under a known load, and what it did with it.

A run makes a throw-away authority and a Core in a process of its own, offers traffic to a probe, and judges what came
out against the budgets of the performance model (docs/performance_model.md). Every result names the machine.
"""
