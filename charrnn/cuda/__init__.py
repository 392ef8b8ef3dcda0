"""How an NVIDIA GPU trains a network: CUDA graphs, batches on the device, and backends for the recurrent layers."""
