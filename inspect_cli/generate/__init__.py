"""More good patches from a generative network, written as parts to train on."""
