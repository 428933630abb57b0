"""DeepSpeed and ranks: the configuration, the processes, and the check that ZeRO is in force."""
