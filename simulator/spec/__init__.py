"""What the user writes, as frozen records: model, hardware, parallelism, workload."""
