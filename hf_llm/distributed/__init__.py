"""DeepSpeed and ranks: the configuration, the processes, proof that ZeRO is in force."""
