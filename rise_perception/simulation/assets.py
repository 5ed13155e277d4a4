"""Building blocks of a MuJoCo model: textures, materials, meshes and geoms with generated names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rise_perception.simulation.engine import mujoco

HIDDEN_GROUP = 4
"""Geoms of this group collide and have mass but are not drawn (the visible mesh covers them)."""


def rotation_between_z_and(direction: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) that turns +z into ``direction`` (3,)."""
    d = direction / np.linalg.norm(direction)
    if d[2] < -0.9999:
        return np.array([0.0, 1.0, 0.0, 0.0])
    q = np.array([1 + d[2], -d[1], d[0], 0.0])
    return q / np.linalg.norm(q)


class Builder:
    """Adds assets and geoms to an ``MjSpec``; every method that makes an asset returns its name."""

    def __init__(self) -> None:
        self.mj = mujoco()
        self.spec = self.mj.MjSpec()
        self._count = 0

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def material(
        self,
        texture: np.ndarray | None = None,
        rgb: np.ndarray | None = None,
        alpha: float = 1.0,
        gloss: float = 0.2,
        repeat: tuple[float, float] = (1.0, 1.0),
    ) -> str:
        """A material from a texture, (H, W, 3) flat or (6, S, S, 3) cube, or a colour ``rgb`` in [0, 255]."""
        material = self.spec.add_material()
        material.name = self._name("material")
        material.specular, material.shininess = gloss, 0.2 + 0.6 * gloss
        material.rgba = [*(np.ones(3) if rgb is None else np.asarray(rgb) / 255), alpha]
        if texture is not None:
            asset = self.spec.add_texture()
            asset.name = self._name("texture")
            cube = texture.ndim == 4
            asset.type = self.mj.mjtTexture.mjTEXTURE_CUBE if cube else self.mj.mjtTexture.mjTEXTURE_2D
            asset.width = texture.shape[-2]
            asset.height = texture.shape[0] * texture.shape[1] if cube else texture.shape[0]
            asset.nchannel = 3
            asset.data = np.ascontiguousarray(texture).tobytes()
            material.textures[self.mj.mjtTextureRole.mjTEXROLE_RGB] = asset.name
            material.texrepeat = list(repeat)
        return str(material.name)

    def _mesh(self, vertices: np.ndarray, faces: np.ndarray | None, texcoord: np.ndarray | None) -> str:
        mesh = self.spec.add_mesh()
        mesh.name = self._name("mesh")
        mesh.uservert = np.asarray(vertices, np.float64).ravel()
        if faces is not None:
            mesh.userface = np.asarray(faces, np.int32).ravel()
            mesh.inertia = self.mj.mjtMeshInertia.mjMESH_INERTIA_SHELL
        if texcoord is not None:
            mesh.usertexcoord = np.asarray(texcoord, np.float64).ravel()
        return str(mesh.name)

    def revolve(
        self,
        profile: np.ndarray,
        segments: int = 24,
        squash: tuple[float, float] = (1.0, 1.0),
        exponent: float = 2.0,
    ) -> str:
        """Mesh of the ``profile`` (K, 2) of (radius, z), from outside bottom to top, turned around z.

        ``exponent`` 2 gives a circle, larger ones a rounded square; ``squash`` scales x and y. The
        texture goes around with u and from the profile's end (v = 1) to its start.
        """
        profile = np.asarray(profile, np.float64)
        angle = np.linspace(0, 2 * np.pi, segments + 1)
        ring = np.stack([np.cos(angle), np.sin(angle)], 1)
        ring = np.sign(ring) * np.abs(ring) ** (2.0 / exponent) * np.asarray(squash)
        radius = np.maximum(profile[:, 0], 1e-4)
        vertices = np.empty((len(profile), segments + 1, 3))
        vertices[..., :2] = radius[:, None, None] * ring
        vertices[..., 2] = profile[:, 1, None]
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))])
        v, u = np.meshgrid(1 - length / length[-1], angle / (2 * np.pi), indexing="ij")
        return self.sheet(vertices, np.stack([u, v], -1))

    def sheet(self, vertices: np.ndarray, texcoord: np.ndarray) -> str:
        """Mesh of a grid of ``vertices`` (R, C, 3) with ``texcoord`` (R, C, 2); its front is row x column."""
        rows, columns = vertices.shape[:2]
        index = np.arange(rows * columns).reshape(rows, columns)
        a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
        c, d = index[1:, 1:].ravel(), index[1:, :-1].ravel()
        faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
        return self._mesh(vertices.reshape(-1, 3), faces, texcoord.reshape(-1, 2))

    def hull(self, points: np.ndarray) -> str:
        """Convex mesh around ``points`` (N, 3)."""
        return self._mesh(points, None, None)

    def mesh(
        self,
        body: Any,
        name: str,
        material: str,
        solid: bool = False,
        pos: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    ) -> None:
        """Draw mesh ``name`` at ``pos``; it collides and has mass (as its convex hull) only if ``solid``."""
        geom = body.add_geom(
            type=self.mj.mjtGeom.mjGEOM_MESH, meshname=name, material=material, pos=list(pos)
        )
        if not solid:
            geom.contype = geom.conaffinity = 0
            geom.mass = 0

    def solid(
        self,
        body: Any,
        shape: str,
        size: Sequence[float] | np.ndarray,
        pos: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
        quat: np.ndarray | None = None,
        material: str | None = None,
        ghost: bool = False,
    ) -> None:
        """A primitive (box, cylinder, capsule, sphere, ellipsoid) of half sizes ``size``.

        Without a material it is not drawn; with ``ghost`` it is drawn and does not collide.
        """
        geom = body.add_geom(type=getattr(self.mj.mjtGeom, f"mjGEOM_{shape.upper()}"), pos=list(pos))
        geom.size = [*size, *([0.0] * (3 - len(size)))]
        if quat is not None:
            geom.quat = list(quat)
        if material is None:
            geom.group = HIDDEN_GROUP
        else:
            geom.material = material
        if ghost:
            geom.contype = geom.conaffinity = 0
            geom.mass = 0

    def rod(
        self, body: Any, start: np.ndarray, end: np.ndarray, radius: float, material: str, ghost: bool = False
    ) -> None:
        """A capsule from ``start`` to ``end`` (3,)."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        half = max(float(np.linalg.norm(end - start)) / 2, 1e-4)
        quat = rotation_between_z_and(end - start)
        self.solid(body, "capsule", (radius, half), (start + end) / 2, quat, material, ghost)

    def tube_walls(
        self, body: Any, radius: float, thickness: float, low: float, high: float, sides: int = 8
    ) -> None:
        """Hidden boxes in a ring, from z ``low`` to ``high``: what makes a cup hollow for the physics."""
        width = radius * np.tan(np.pi / sides)
        for k in range(sides):
            angle = 2 * np.pi * k / sides
            middle = (radius - thickness / 2) * np.array([np.cos(angle), np.sin(angle)])
            quat = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
            self.solid(
                body, "box", (thickness / 2, width, (high - low) / 2), (*middle, (low + high) / 2), quat
            )
