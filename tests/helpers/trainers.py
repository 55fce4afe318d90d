"""Lightning trainers that write nothing."""

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class FakeTrainer:
    """A trainer that records the checkpoints which it is to save."""

    def __init__(self):
        self.global_step, self.accumulate_grad_batches, self.is_global_zero, self.saved = 7, 1, True, []

    def save_checkpoint(self, path):
        self.saved.append(path)
