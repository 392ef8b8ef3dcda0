"""Training on an NVIDIA GPU: CUDA graphs, batches on the device, and backends for the recurrent layers."""
