"""The same render without smile-pipe: an off-screen VTK window, Pillow and tarfile. Compared in bench_render.py.

python tests/benchmarks/plain_vtk.py TAR CHANNELS OBJ...: three views of each scan, 224 pixels, with its texture
(`_F2D.png` in the same folder). Prints scans per second, without the first scan. VTK computes normals itself; depth is
that of its z-buffer.
"""

import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import vtk
from plain_tar import add_image
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

SIZE, DISTANCE, HALF_SPAN, YAWS = 224, 45.0, 10.8, (0, 35, -35)


class Window:
    """An off-screen window with one mesh."""

    def __init__(self) -> None:
        self.mapper, self.actor, self.texture = vtk.vtkPolyDataMapper(), vtk.vtkActor(), vtk.vtkTexture()
        self.actor.SetMapper(self.mapper)
        self.renderer, self.window = vtk.vtkRenderer(), vtk.vtkRenderWindow()
        self.renderer.AddActor(self.actor)
        self.renderer.SetBackground(240 / 255, 240 / 255, 240 / 255)
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(SIZE, SIZE)
        self.window.AddRenderer(self.renderer)

    def show(self, path: Path) -> None:
        """Read a scan and its texture."""
        reader = vtk.vtkOBJReader()
        reader.SetFileName(str(path))
        normals = vtk.vtkPolyDataNormals()
        normals.SetInputConnection(reader.GetOutputPort())
        normals.SplittingOff()
        normals.Update()
        self.mesh = normals.GetOutput()
        self.mapper.SetInputData(self.mesh)
        picture = vtk.vtkPNGReader()
        picture.SetFileName(str(path).replace("_F3D.obj", "_F2D.png"))
        self.texture.SetInputConnection(picture.GetOutputPort())

    def place(self, yaw: float) -> None:
        """Point the camera at the centre of the mesh from a yaw in degrees."""
        middle, camera = np.array(self.mesh.GetCenter()), self.renderer.GetActiveCamera()
        angle = np.radians(yaw)
        camera.SetFocalPoint(*middle)
        camera.SetPosition(*(middle + DISTANCE * np.array([np.sin(angle), 0, np.cos(angle)])))
        camera.SetViewUp(0, 1, 0)
        camera.SetViewAngle(2 * np.degrees(np.arctan(HALF_SPAN / DISTANCE)))
        camera.SetClippingRange(DISTANCE - 20, DISTANCE + 20)

    def rgb(self) -> np.ndarray:
        """Render the mesh with its texture, lit from the camera."""
        self.mapper.ScalarVisibilityOff()
        self.actor.SetTexture(self.texture)
        self.actor.GetProperty().SetAmbient(0.35)
        self.actor.GetProperty().SetDiffuse(0.65)
        return self._pixels()

    def normal(self, yaw: float) -> np.ndarray:
        """Render the normals of the mesh, in the axes of the view, as colours."""
        angle = np.radians(yaw)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        colors = (vtk_to_numpy(self.mesh.GetPointData().GetNormals()) @ turn * 127.5 + 128).astype(np.uint8)
        array = numpy_to_vtk(colors, deep=True)
        array.SetName("colors")
        self.mesh.GetPointData().SetScalars(array)
        self.mapper.ScalarVisibilityOn()
        self.mapper.SetScalarModeToUsePointData()
        self.actor.SetTexture(None)
        self.actor.GetProperty().SetAmbient(1)
        self.actor.GetProperty().SetDiffuse(0)
        return self._pixels()

    def depth(self) -> np.ndarray:
        """The z-buffer of the last render, 16 bits."""
        values = vtk.vtkFloatArray()
        self.window.GetZbufferData(0, 0, SIZE - 1, SIZE - 1, values)
        return (vtk_to_numpy(values).reshape(SIZE, SIZE)[::-1] * 65535).astype(np.uint16)

    def _pixels(self) -> np.ndarray:
        self.window.Render()
        values = vtk.vtkUnsignedCharArray()
        self.window.GetPixelData(0, 0, SIZE - 1, SIZE - 1, 1, values, 0)
        return np.ascontiguousarray(vtk_to_numpy(values).reshape(SIZE, SIZE, 3)[::-1])


def main() -> None:
    """Render all scans and print the rate."""
    out, channels, paths = sys.argv[1], sys.argv[2].split(","), [Path(name) for name in sys.argv[3:]]
    window = Window()
    with tarfile.open(out, "w") as tar:
        for number, path in enumerate(paths):
            if number == 1:
                start = time.perf_counter()
            window.show(path)
            for yaw in YAWS:
                window.place(yaw)
                images = {"rgb": window.rgb()}
                if "depth" in channels:
                    images["depth"] = window.depth()
                if "normal" in channels:
                    images["normal"] = window.normal(yaw)
                for channel, pixels in images.items():
                    add_image(tar, f"{path.stem}.{yaw}", channel, pixels)
    print((len(paths) - 1) / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
