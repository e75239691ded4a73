"""The EQ-ViT route: Vision Transformers made of integers, for AMD's Versal ACAP (Dong, Zhuang et al.)."""
