"""The same render without smile-pipe: PyTorch3D's mesh renderer, Pillow and tarfile. Compared in bench_render.py.

python tests/benchmarks/plain_pytorch3d.py TAR CHANNELS OBJ...: three views of each scan, 224 pixels, on the GPU if
there is one. Prints scans per second, without the first scan.
"""

import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plain_tar import add_image
from pytorch3d.io import load_obj
from pytorch3d.renderer import (
    FoVPerspectiveCameras,
    HardPhongShader,
    MeshRasterizer,
    PointLights,
    RasterizationSettings,
    TexturesUV,
    look_at_view_transform,
)
from pytorch3d.structures import Meshes

SIZE, DISTANCE, HALF_SPAN, YAWS = 224, 45.0, 10.8, (0, 35, -35)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(path: Path) -> Meshes:
    """Load a scan with its texture, centred at the origin."""
    vertices, faces, aux = load_obj(path, load_textures=False, device=DEVICE)
    picture = Image.open(str(path).replace("_F3D.obj", "_F2D.png")).convert("RGB")
    texture = torch.from_numpy(np.asarray(picture, np.float32) / 255).to(DEVICE)
    textures = TexturesUV([texture], [faces.textures_idx], [aux.verts_uvs])
    middle = (vertices.amax(dim=0) + vertices.amin(dim=0)) / 2
    return Meshes([vertices - middle], [faces.verts_idx], textures)


def views(mesh: Meshes, channels: list[str]) -> dict[str, np.ndarray]:
    """Render all views of a mesh: rgb and normal uint8 [V, H, W, 3], depth uint16 [V, H, W]."""
    R, T = look_at_view_transform(DISTANCE, 0, YAWS)
    cameras = FoVPerspectiveCameras(R=R, T=T, fov=2 * np.degrees(np.arctan(HALF_SPAN / DISTANCE)), device=DEVICE)
    settings = RasterizationSettings(image_size=SIZE, max_faces_per_bin=int(mesh.num_faces_per_mesh().max()))
    meshes = mesh.extend(len(YAWS))
    fragments = MeshRasterizer(cameras, settings)(meshes)
    lights = PointLights(location=cameras.get_camera_center(), device=DEVICE, specular_color=((0, 0, 0),))
    shaded = HardPhongShader(device=DEVICE, cameras=cameras, lights=lights)(fragments, meshes)
    images = {"rgb": (shaded[..., :3].clamp(0, 1) * 255).byte().cpu().numpy()}
    if "depth" in channels:
        depth = fragments.zbuf[..., 0].clamp(0, 2 * DISTANCE) / (2 * DISTANCE) * 65535
        images["depth"] = depth.cpu().numpy().astype(np.uint16)
    if "normal" in channels:
        face, weights = fragments.pix_to_face[..., 0], fragments.bary_coords[..., 0, :]
        corners = meshes.verts_normals_packed()[meshes.faces_packed()[face.clamp(min=0)]]
        normals = torch.nn.functional.normalize((corners * weights[..., None]).sum(dim=-2), dim=-1)
        normals = torch.einsum("vhwi,vij->vhwj", normals, R.to(DEVICE)) * (face >= 0)[..., None]
        images["normal"] = (normals * 127.5 + 128).byte().cpu().numpy()
    return images


def main() -> None:
    """Render all scans and print the rate."""
    out, channels, paths = sys.argv[1], sys.argv[2].split(","), [Path(name) for name in sys.argv[3:]]
    with tarfile.open(out, "w") as tar, torch.inference_mode():
        for number, path in enumerate(paths):
            if number == 1:
                start = time.perf_counter()
            for channel, images in views(load(path), channels).items():
                for yaw, pixels in zip(YAWS, images, strict=True):
                    add_image(tar, f"{path.stem}.{yaw}", channel, pixels)
    print((len(paths) - 1) / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
