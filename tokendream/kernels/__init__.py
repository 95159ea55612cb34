"""The same arithmetic, faster: fused ops for CPUs, torch.compile, captured updates for GPUs. `install` puts them in."""
