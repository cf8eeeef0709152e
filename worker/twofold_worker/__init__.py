"""The doing side: claim jobs, upscale them, store the results."""
