"""What needs a GPU, in stages: `scripts/gpu_check.sh`."""
