"""Language models that run inside this process: the simulated one and the small real one."""
