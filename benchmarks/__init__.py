"""What B-cos networks cost, beside plain networks and the reference: ``python -m benchmarks``, or ``nox -s bench``."""
