"""Pictures of a scene without noise: colour, planar depth and instance labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rise_perception.simulation.assets import HIDDEN_GROUP
from rise_perception.simulation.camera import View
from rise_perception.simulation.engine import mujoco, no_opengl
from rise_perception.simulation.scene import AWAY, Scene

NEAR, FAR = 0.02, 12.0
_SAMPLES = 2
"""Colour passes that are averaged, each with moved bulbs (soft shadows) and shifted (smooth edges)."""


@dataclass(frozen=True)
class Rendering:
    """What the camera would see without noise.

    Attributes:
        image: (H, W, 3) float32 RGB in [0, 255].
        depth: (H, W) float32 metres along the optical axis.
        labels: (H, W) int32; 0 surroundings, -1 container, >= 1 item.
        amodal: label -> (H, W) bool, the item's pixels as if nothing were in front of it.
    """

    image: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    amodal: dict[int, np.ndarray]


class Renderer:
    """An off-screen context of one size: ``load`` a scene, then ``render`` its views. One thread only."""

    def __init__(self, width: int, height: int) -> None:
        self._mj = mujoco()
        self.width, self.height = width, height
        try:
            self._gl = self._mj.GLContext(width, height)
            self._gl.make_current()
            # Some platforms only fail when something is uploaded.
            self._mj.MjrContext(self._mj.MjSpec().compile(), self._mj.mjtFontScale.mjFONTSCALE_50).free()
        except Exception as error:  # each OpenGL platform raises errors of its own
            raise no_opengl(error) from error
        self._rect = self._mj.MjrRect(0, 0, width, height)
        self._options = self._mj.MjvOption()
        self._options.geomgroup[HIDDEN_GROUP] = 0
        self._perturb, self._free = self._mj.MjvPerturb(), self._mj.MjvCamera()
        self._context: Any = None

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._release()
        self._gl.free()

    def _release(self) -> None:
        if self._context is not None:
            self._context.free()
            self._context = None

    def load(self, scene: Scene) -> None:
        """Upload the scene's textures and meshes."""
        self._release()
        self._scene = scene
        self._context = self._mj.MjrContext(scene.model, self._mj.mjtFontScale.mjFONTSCALE_50)
        self._mj.mjr_setBuffer(self._mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = self._mj.mjtDepthMap.mjDEPTH_ZEROFAR
        self._draw = self._mj.MjvScene(scene.model, maxgeom=scene.model.ngeom + 50)

    def _aim(self, view: View) -> None:
        near, far = NEAR, FAR
        mj, scene, c = self._mj, self._scene, view.camera
        scene.data.mocap_pos[:] = AWAY
        for name, (position, quat) in view.moved.items():
            k = scene.model.body(name).mocapid[0]
            scene.data.mocap_pos[k], scene.data.mocap_quat[k] = position, quat
        for k, light in enumerate(view.lights):
            scene.model.light_pos[k], scene.model.light_dir[k] = light.position, light.direction
            scene.model.light_diffuse[k], scene.model.light_ambient[k] = light.diffuse, 0.0
            scene.model.light_specular[k] = light.specular
        scene.model.vis.headlight.ambient = sum(light.ambient for light in view.lights)
        mj.mj_kinematics(scene.model, scene.data)
        mj.mj_camlight(scene.model, scene.data)
        mj.mjv_updateScene(
            scene.model,
            scene.data,
            self._options,
            self._perturb,
            self._free,
            mj.mjtCatBit.mjCAT_ALL,
            self._draw,
        )
        for eye in self._draw.camera:  # pixel centres are whole numbers: the picture spans -0.5 .. size - 0.5
            eye.pos, eye.forward, eye.up = view.position, view.rotation[:, 2], -view.rotation[:, 1]
            left, right = (-0.5 - c.cx) / c.fx * near, (self.width - 0.5 - c.cx) / c.fx * near
            eye.frustum_center, eye.frustum_width = (left + right) / 2, (right - left) / 2
            eye.frustum_bottom = -(self.height - 0.5 - c.cy) / c.fy * near
            eye.frustum_top = (0.5 + c.cy) / c.fy * near
            eye.frustum_near, eye.frustum_far = near, far

    def _pass(self, ids: bool, depth: np.ndarray | None = None) -> np.ndarray:
        flags, bits = self._draw.flags, self._mj.mjtRndFlag
        flags[bits.mjRND_SEGMENT] = flags[bits.mjRND_IDCOLOR] = ids
        flags[bits.mjRND_SHADOW] = not ids
        flags[bits.mjRND_REFLECTION] = flags[bits.mjRND_SKYBOX] = flags[bits.mjRND_HAZE] = 0
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        self._mj.mjr_render(self._rect, self._draw, self._context)
        self._mj.mjr_readPixels(pixels, depth, self._rect, self._context)
        return pixels[::-1]

    def _ids(self, depth: np.ndarray | None = None) -> np.ndarray:
        """(H, W) int32 label of each pixel."""
        pixels = self._pass(True, depth).astype(np.int32)
        segment = pixels[..., 0] + (pixels[..., 1] << 8) + (pixels[..., 2] << 16)
        table = np.zeros(self._draw.ngeom + 1, np.int32)
        for geom in self._draw.geoms[: self._draw.ngeom]:
            if geom.segid >= 0 and geom.objtype == self._mj.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = self._scene.geom_label[geom.objid]
        return table[np.minimum(segment, self._draw.ngeom)]

    def labels(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Labels (H, W) int32 and depth (H, W) float32 in metres: the cheap pass."""
        self._aim(view)
        buffer = np.empty((self.height, self.width), np.float32)
        labels = self._ids(buffer)
        # MuJoCo's depth buffer runs from 1 at the near plane to 0 at the far one.
        depth = NEAR * FAR / (NEAR + buffer[::-1].astype(np.float64) * (FAR - NEAR))
        return labels, depth.astype(np.float32)

    def render(self, view: View, rng: np.random.Generator, amodal: bool = True) -> Rendering:
        """All pictures of ``view``; ``rng`` moves the bulbs about for soft shadows.

        Without ``amodal`` the whole silhouettes are left out, which take more than half of the time.
        """
        labels, depth = self.labels(view)
        whole = self._amodal(labels) if amodal else {}
        image = np.zeros((self.height, self.width, 3), np.float32)
        for k in range(_SAMPLES):
            lights = [
                replace(lamp, position=lamp.position + rng.normal(0, lamp.bulb, 3)) for lamp in view.lights
            ]
            shift = (k + 0.5) / _SAMPLES - 0.5  # of a pixel, along the diagonal
            camera = replace(view.camera, cx=view.camera.cx + shift, cy=view.camera.cy + shift)
            self._aim(replace(view, lights=tuple(lights), camera=camera))
            image += self._pass(False)
        return Rendering(image / _SAMPLES, depth, labels, whole)

    def _amodal(self, labels: np.ndarray) -> dict[int, np.ndarray]:
        """Whole silhouettes of the items that are seen, each drawn alone."""
        everything = self._draw.ngeom
        geoms = self._draw.geoms
        owners = np.array(
            [
                self._scene.geom_label[g.objid] if g.objtype == self._mj.mjtObj.mjOBJ_GEOM else 0
                for g in geoms[:everything]
            ]
        )
        out: dict[int, np.ndarray] = {}
        hidden = [geom.segid for geom in geoms[:everything]]
        for label in np.unique(labels[labels > 0]):
            for k in range(everything):
                geoms[k].segid = hidden[k] if owners[k] == label else -1
            out[int(label)] = self._ids() == label
        for k in range(everything):
            geoms[k].segid = hidden[k]
        return out
