"""Files to pixels or latents, and back: pure functions over untrusted bytes.

`source` says what a file is, and has its header and its content: read it first. `pictures` knows
PNG, JPEG and WebP (`pieces`, `untrusted`, `webp` and `profiles` put right what Pillow leaves),
`latents` knows safetensors and .npy. `result` makes the files of the result and of its preview.
"""
