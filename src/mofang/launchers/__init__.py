"""From a plan to what a backend starts: argv, environment and files; one module a framework."""
