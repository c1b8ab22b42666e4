"""Models of the JSON of a glTF 2.0 file that validate the parts a face scan needs.

Source: the glTF 2.0 specification, ISO/IEC 12113:2022. Cameras, skins, animations, morph targets and everything else
are ignored. Indices are checked to be numbers here, and to be in range where they are used.
"""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from pydantic.alias_generators import to_camel

from smile_pipe.pipeline.meshes.mesh import MeshError

T = TypeVar("T")
_MAX_ITEMS, _MAX_PARTS = 1 << 14, 1 << 8  # limits for lists of one kind, and for meshes and their primitives
_MAX_MESSAGE = 200

Items = Annotated[tuple[T, ...], Field(max_length=_MAX_ITEMS)]
Parts = Annotated[tuple[T, ...], Field(max_length=_MAX_PARTS)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Vector2 = tuple[FiniteFloat, FiniteFloat]
Vector3 = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Vector4 = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
Matrix = Annotated[tuple[FiniteFloat, ...], Field(min_length=16, max_length=16)]

# These two affect vertices and texture coordinates and are supported. Others affect only shading, which is ignored.
_KNOWN = ("KHR_mesh_quantization", "KHR_texture_transform")
_HARMLESS = ("KHR_materials_", "KHR_lights_")
_COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class _Named(BaseModel):
    """An object whose keys are names from the specification."""

    model_config = ConfigDict(frozen=True)


class Buffer(_Object):
    """Bytes of the file itself, of a data URI, or of another file."""

    byte_length: Count
    uri: str | None = None


class BufferView(_Object):
    """A byte range of a buffer."""

    buffer: Count
    byte_offset: Count = 0
    byte_length: Count
    byte_stride: Annotated[int, Field(ge=1, le=252)] | None = None


class Accessor(_Object):
    """A byte range as an array of numbers."""

    buffer_view: Count | None = None
    byte_offset: Count = 0
    component_type: int
    normalized: bool = False
    count: Count
    type: str
    sparse: object = None


class Attributes(_Named):
    """Accessors of the vertex attributes of a primitive."""

    POSITION: Count | None = None
    TEXCOORD_0: Count | None = None
    TEXCOORD_1: Count | None = None
    COLOR_0: Count | None = None


class Primitive(_Object):
    """Triangles (modes 4 to 6), lines or points with one material."""

    attributes: Attributes
    indices: Count | None = None
    material: Count | None = None
    mode: int = 4


class MeshObject(_Object):
    """Primitives that are placed together."""

    primitives: Parts[Primitive]


class Node(_Object):
    """A node of the scene: a transform, a mesh and child nodes."""

    children: Items[Count] = ()
    mesh: Count | None = None
    matrix: Matrix | None = None
    translation: Vector3 = (0.0, 0.0, 0.0)
    rotation: Vector4 = (0.0, 0.0, 0.0, 1.0)
    scale: Vector3 = (1.0, 1.0, 1.0)


class Scene(_Object):
    """The root nodes of a scene."""

    nodes: Items[Count] = ()


class Image(_Object):
    """An image file, as a byte range or a URI."""

    buffer_view: Count | None = None
    uri: str | None = None


class Texture(_Object):
    """An image used as a texture. Without a source, an extension supplies it."""

    source: Count | None = None


class TextureTransform(_Object):
    """Offset, rotation and scale of texture coordinates (KHR_texture_transform)."""

    offset: Vector2 = (0.0, 0.0)
    rotation: FiniteFloat = 0.0
    scale: Vector2 = (1.0, 1.0)
    tex_coord: Count | None = None


class TextureExtensions(_Named):
    """Supported extensions of a texture."""

    KHR_texture_transform: TextureTransform | None = None


class TextureInfo(_Object):
    """The texture of a material and its set of texture coordinates."""

    index: Count
    tex_coord: Count = 0
    extensions: TextureExtensions = TextureExtensions()


class Roughness(_Object):
    """The metallic-roughness properties of a material."""

    base_color_texture: TextureInfo | None = None


class Material(_Object):
    """The material of a primitive."""

    pbr_metallic_roughness: Roughness = Roughness()


class Asset(_Object):
    """The glTF version of the file."""

    version: str


class Document(_Object):
    """The parts of the JSON that are read."""

    asset: Asset
    scene: Count = 0
    scenes: Items[Scene] = ()
    nodes: Items[Node] = ()
    meshes: Parts[MeshObject] = ()
    accessors: Items[Accessor] = ()
    buffer_views: Items[BufferView] = ()
    buffers: Items[Buffer] = ()
    materials: Items[Material] = ()
    textures: Items[Texture] = ()
    images: Items[Image] = ()
    extensions_used: Items[str] = ()
    extensions_required: Items[str] = ()


def parse_document(text: bytes) -> Document:
    """Parse and validate the JSON.

    Raises:
        MeshError: the text is not JSON, a value is missing or invalid, the version is not 2, or the file requires an
            unsupported extension, such as Draco compression.
    """
    try:
        document = Document.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise MeshError(f"invalid glTF file: {place or 'JSON'}: {first['msg'][:_MAX_MESSAGE]}") from None
    if not document.asset.version.startswith("2."):
        raise MeshError(f"unsupported glTF version: {document.asset.version[:8]!a}; only version 2 is supported")
    for name in (*document.extensions_required, *document.extensions_used):
        needed = name in _COMPRESSED or name in document.extensions_required
        if needed and name not in _KNOWN and not name.startswith(_HARMLESS):
            raise MeshError(f"unsupported extension: {name[:80]!a}; export the file without it")
    return document


def get_item(items: tuple[T, ...], index: int, kind: str) -> T:
    """Return an item of one of the document's lists.

    Raises:
        MeshError: the index is out of range.
    """
    if index >= len(items):
        raise MeshError(f"index out of range: {kind} {index} of {len(items)}")
    return items[index]
