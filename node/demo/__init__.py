"""The demo: a whole network on one machine, on real patients' trial data, from genesis to audit."""
