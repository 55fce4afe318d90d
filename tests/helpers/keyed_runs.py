"""The words of runs whose every source of randomness is on, to compare trainings by different numbers of processes."""

WORDS = (
    *("model=classifier_free", "conditioning.dropout=0.4", "objective=vlb", "prediction.variance=learned_range"),
    *("time_sampling=importance", "time_sampling.history=2", "schedule.num_steps=8", "optimizer.lr=0.002"),
    *("lr_scheduler.warmup_steps=0", "trainer.log_every_n_steps=1", "trainer.val_check_interval=3"),
    *("trainer.limit_val_batches=1.0", "metrics=digits", "metrics.num_samples=70", "metrics.resamples=4"),
    *("callbacks=default", "sampler=ddim"),
)
STEPS = "trainer.max_steps=6"
SPEED = {"train/steps_per_second", "eval/images_per_second"}
