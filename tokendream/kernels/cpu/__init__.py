"""The passes of `nn.passes` for CPUs, each in one reading and one writing of memory; `nn.passes` says when."""
