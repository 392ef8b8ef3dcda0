"""The frame predictor: model, data, generation, sampling and audio metrics."""
