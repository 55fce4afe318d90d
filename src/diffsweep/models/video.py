"""Video diffusion models, which learn p(x_0) of clips x_0 of F frames, (B, C, F, H, W).

Training minimises the loss of images over all frames of a clip. Two additions change the step: K images that are
appended to each clip as frames F + 1 to F + K, so the network learns from images too, and a time t_f for each frame in
place of one t for the clip.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffsweep.diffusion import BatchNoise, Condition, Noise, Stream, mean_of_frames
from diffsweep.models.diffusion import DiffusionModel
from diffsweep.models.timed import Losses


class VideoModel(DiffusionModel):
    """A diffusion model of clips (B, C, F, H, W), with joint training on images (Ho et al. 2022, arXiv:2204.03458).

    The loss of a clip is the mean of the objective over its F frames and the K images appended to it, each image with a
    time, a class and independent noise of its own; attention over time joins the images to no other frame (section 3 of
    the paper). The images are frames of the next clips of the batch. With K = 0 and one time per clip the training step
    is that of :class:`DiffusionModel`.

    Args:
        parts: the positional arguments of :class:`DiffusionModel`.
        images_per_clip: K, the number of images appended to each clip in training.
        time_per_frame: whether each frame of a clip has a time of its own in training; otherwise all frames have the
            same.
        settings: the keyword arguments of :class:`DiffusionModel`.

    Raises:
        ValueError: K is negative, images are appended under a condition other than the class, or either option is used
            with times that adapt to losses.
    """

    def __init__(self, *parts: Any, images_per_clip: int = 0, time_per_frame: bool = False, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        if images_per_clip < 0:
            raise ValueError(f"model.images_per_clip must be at least 0, not {images_per_clip}")
        if images_per_clip and (others := set(self.conditioning.sizes) - {"num_classes"}):
            raise ValueError(
                f"model.images_per_clip={images_per_clip}: images of other clips have classes of their own, but no "
                f"{', '.join(others)}; use conditioning=class or none"
            )
        if (images_per_clip or time_per_frame) and "bound" in self.time_sampling.requires:
            raise ValueError(
                "times that adapt to losses are one per sample, and model.images_per_clip or time_per_frame draws "
                "several; use time_sampling=uniform or stratified"
            )
        if images_per_clip or time_per_frame:
            self.batch_noise = BatchNoise(self.seed)  # independent for the images; ``losses`` colours that of the clips
        self.images_per_clip, self.time_per_frame = images_per_clip, time_per_frame

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        if not self.images_per_clip and not self.time_per_frame:
            return super().losses(batch)
        noise, schedule = self.batch_noise(batch["position"]), self.denoiser.schedule
        clips = self.autoencoder.of(batch, noise)  # (B, C, F, H, W)
        x_0, cond = self.with_images(clips, self.condition(batch, noise), noise)  # (B, C, F + K, H, W)
        u = noise.uniform(x_0.shape[2], stream=Stream.TIME)  # (B, F + K)
        if not self.time_per_frame:
            u = torch.cat([u[:, :1].expand(-1, clips.shape[2]), u[:, clips.shape[2] :]], 1)
        t, weight = self.time_sampling(schedule, u)
        of_clips, of_images = noise.like(x_0, Stream.EPS).split([clips.shape[2], self.images_per_clip], dim=2)
        eps = torch.cat([self.denoiser.noise.colour(of_clips), of_images], dim=2)
        losses = self.objective(self.denoiser, x_0, cond, t, eps, noise)
        return Losses(losses, t[:, 0], mean_of_frames(weight))

    def with_images(self, clips: Tensor, cond: Condition | None, noise: Noise) -> tuple[Tensor, Condition | None]:
        """Return clips with K images after their F frames, (B, C, F + K, H, W), and a condition that marks the images.

        Image k = 0, ..., K - 1 of clip b is a frame, drawn by ``noise``, of clip (b + k + 1) mod B of the batch; with K
        >= B some are of clip b itself. In the condition these K frames are ``independent``. For K = 0 both are returned
        unchanged.

        Args:
            clips: (B, C, F, H, W).
            cond: the conditions of the clips; a class per clip becomes one per frame and image, (B, F + K).
            noise: the random numbers of the clips.
        """
        count, frames, images = len(clips), clips.shape[2], self.images_per_clip
        if not images:
            return clips, cond
        source = (torch.arange(count)[:, None] + torch.arange(images) + 1).to(clips.device) % count  # (B, K)
        frame = (noise.uniform(images, stream=Stream.DATA) * frames).long().clamp(max=frames - 1).to(clips.device)
        appended = clips[source, :, frame].transpose(1, 2)  # (B, K, C, H, W) to (B, C, K, H, W)
        independent = (torch.arange(frames + images, device=clips.device) >= frames).expand(count, -1)
        cond = Condition() if cond is None else cond
        if cond.vector is not None:
            own = cond.vector[:, None].expand(-1, frames)
            cond = replace(cond, vector=torch.cat([own, cond.vector[source]], 1))
        return torch.cat([clips, appended], 2), replace(cond, independent=independent)
