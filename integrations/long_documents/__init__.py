"""Documents of any length: read in stretches, answered, classified and tagged as one."""
