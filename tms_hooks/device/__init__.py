"""Training on another device than the CPU: the torch engine's updates, captured in a CUDA graph where there is one."""
