"""Models in the formats of other programs: pipelines of diffusers, ONNX, torch.export and safetensors, both ways."""
