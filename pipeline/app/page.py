"""The page of `smile-pipe app`: Streamlit runs this file from top to bottom after every interaction.

Its argument is an `AppConfig` as JSON. An analysis is kept in the visitor's session; uploads are not kept.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit.runtime.uploaded_file_manager import UploadedFile

from smile_pipe.pipeline.app.analysis import EXAMPLES, FaceAnalysis, analyze_example, analyze_upload
from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.app.examples import MAX_EXAMPLES, UploadedExample, embed_example, example_candidates
from smile_pipe.pipeline.app.figures import face_figure, probabilities_figure, probabilities_over_time_figure
from smile_pipe.pipeline.app.free_text import parse_free_text
from smile_pipe.pipeline.app.uploads import ACCEPTED, UploadError
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.landmarks.axes import resolve_axes
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.predictor import Classifier, Predictor
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import as_rgb, decode_image

# Pixels; three views fit side by side on a phone.
VIEW_WIDTH = 108
_CHART_CONFIG = {"displayModeBar": False}


@st.cache_resource(show_spinner="Loading the run")
def load_predictor(options: str) -> Predictor:
    """Load the predictor once for all visitors."""
    config = AppConfig.model_validate_json(options)
    return Predictor.load(
        config.run,
        config.head,
        config.renderer,
        config.use_gpu,
        resolve_axes(config.up, config.axes),
        knowledge=config.knowledge,
        units=config.units,
    )


@st.cache_resource(show_spinner=False)
def load_example(_predictor: Predictor, name: str) -> FaceAnalysis:
    """Analyze an example once for all visitors; Streamlit does not hash arguments that begin with an underscore."""
    return analyze_example(_predictor, name)


def main() -> None:
    """Draw the page."""
    st.set_page_config("smile-pipe", layout="wide")
    st.title("What does this face express?")
    try:
        predictor = load_predictor(sys.argv[1])
    except UsageError as error:
        st.error(str(error))
        return
    select_face(predictor)
    face: FaceAnalysis | None = st.session_state.get("analysis")
    if face is None:
        st.info("Send a scan, or click on one of the examples.")
        return
    show_face(predictor, face)


def select_face(predictor: Predictor) -> None:
    """Analyze the upload or the example that the visitor chose, and store it in the session."""
    with st.sidebar:
        upload = st.file_uploader(
            "A mesh, or a zip: a mesh and its texture, a mesh and its `neutral` scan, or a sequence", type=ACCEPTED
        )
        st.caption("Or a synthetic example:")
        clicked = [name for name in EXAMPLES if st.button(name, width="stretch")]
        show_run(predictor)
    # The uploader keeps its file; analyze a file only once.
    is_new = upload is not None and upload.file_id != st.session_state.get("upload_id")
    if not clicked and not is_new:
        return
    try:
        with st.spinner("Analyzing"):
            if clicked:
                st.session_state["analysis"] = load_example(predictor, clicked[0])
            elif upload is not None:
                st.session_state["upload_id"] = upload.file_id
                st.session_state["analysis"] = analyze_upload(predictor, upload.name, upload.getvalue())
    except (MeshError, UploadError) as error:
        st.session_state.pop("analysis", None)
        st.error(str(error))


def show_run(predictor: Predictor) -> None:
    """Show which run makes the predictions."""
    run = predictor.run
    facts = [
        f"{run.recipe['name']}, {run.recipe['arch']}",
        f"trained on {pluralize(run.num_train_samples, 'sample')} of {pluralize(len(run.train_subjects), 'subject')}",
        f"uses {' and '.join(run.channels)} images from {pluralize(len(predictor.settings.views), 'view')}",
        f"text: {run.text_source}",
        f"named by: {predictor.classifier.name}",
    ]
    st.divider()
    st.caption("  \n".join(facts))
    st.caption("It predicts what a face shows, within the limits of its training data, and not what a person feels.")


def show_face(predictor: Predictor, face: FaceAnalysis) -> None:
    """Show the face, its views, and the predictions from them."""
    # Two rows of two columns; a phone shows all four below each other, in this order.
    first_row, second_row = (st.columns(2, gap="large") for _ in range(2))
    with first_row[0]:
        frame = select_frame(face)
        st.plotly_chart(face_figure(face.meshes[frame]), config=_CHART_CONFIG, key="face")
        for note in face.notes:
            st.warning(note)
    # Before the predictions above them, which depend on the selected views.
    with second_row[0]:
        views = select_views(predictor, face, frame)
    if not views:
        first_row[1].warning("Every view is left out; keep at least one.")
        return
    with first_row[1]:
        show_expressions(predictor, face, views)
    with second_row[1]:
        show_descriptions(predictor, face, views)
    if face.frame_embeddings is not None:
        show_frames(predictor, face, views, frame)


def select_frame(face: FaceAnalysis) -> int:
    """Let the visitor select a frame, and return its index; a scan has one frame."""
    st.subheader(face.name, divider="gray")
    if len(face.meshes) == 1:
        return 0
    # The key depends on the length, or the slider would remember a frame that another sequence does not have.
    return st.slider("Frame", 1, len(face.meshes), 1, key=f"frame-of-{len(face.meshes)}") - 1


def select_views(predictor: Predictor, face: FaceAnalysis, frame: int) -> list[int]:
    """Show the rendered views, each with a check box, and return the indices of the checked ones."""
    st.caption("The views that the model uses. Leave one out and see what changes.")
    selected = []
    with st.container(horizontal=True):
        for number, view in enumerate(predictor.settings.views):
            with st.container(width=VIEW_WIDTH):
                picture = view_image(predictor, face, view.name, frame)
                st.image(picture, width=VIEW_WIDTH, alt=f"{view.name} view")
                if st.checkbox(view.name, value=True, key=f"view-{view.name}"):
                    selected.append(number)
    return selected


def view_image(predictor: Predictor, face: FaceAnalysis, view: str, frame: int) -> NDArray[np.uint8]:
    """Return the view in colour, and below it the channels that the model uses, if they are others."""
    timeline = face.sample.record.timeline
    suffix = "" if timeline is None else f".{timeline.moments[min(frame, len(timeline.moments) - 1)]}"
    channels = dict.fromkeys(("rgb", *predictor.run.channels))
    names = [f"{channel}{suffix}" for channel in channels]
    return np.vstack([as_rgb(decode_image(name, face.sample.images[view, name])) for name in names])


def show_expressions(predictor: Predictor, face: FaceAnalysis, views: list[int]) -> None:
    """Show the probabilities of the run's expressions, with the most probable one as a heading."""
    names = [word_for(name) for name in predictor.classifier.classes]
    probabilities = probabilities_of(predictor, face, views, predictor.classifier)
    st.subheader(names[int(probabilities.argmax())].capitalize(), divider="gray")
    show_bars("expressions", names, probabilities)


def probabilities_of(
    predictor: Predictor, face: FaceAnalysis, views: list[int], classifier: Classifier
) -> NDArray[np.float64]:
    """Return the probabilities [K] of a classifier's classes for a face, from the selected views."""
    neutral = None if face.neutral is None else predictor.fuse(face.neutral, views)
    return classifier.relative_to(predictor.fuse(face.embeddings, views), neutral)[0]


def show_bars(purpose: str, names: Sequence[str], probabilities: NDArray[np.float64]) -> None:
    """Show probabilities as bars; `purpose` makes the chart's key unique, as two charts may have the same names."""
    bars = probabilities_figure(dict(zip(names, probabilities.tolist(), strict=True)))
    st.plotly_chart(bars, config=_CHART_CONFIG, key=f"probabilities-of-{purpose}")


def show_frames(predictor: Predictor, face: FaceAnalysis, views: list[int], frame: int) -> None:
    """Show the probabilities of each frame of a sequence over time."""
    assert face.frame_embeddings is not None
    classifier = predictor.classifier
    st.subheader("Over time")
    probabilities = classifier.probabilities(predictor.fuse(face.frame_embeddings, views))
    names = [word_for(name) for name in classifier.classes]
    figure = probabilities_over_time_figure(face.times, probabilities, names, frame)
    st.plotly_chart(figure, config=_CHART_CONFIG, key="time")
    st.caption("Each frame by itself; the bars above are of the sequence as a whole.")


def show_descriptions(predictor: Predictor, face: FaceAnalysis, views: list[int]) -> None:
    """Let the visitor type descriptions, and show their probabilities together with the run's expressions."""
    text = st.text_area("In your own words, one description a line", placeholder="a polite smile\na skeptical face")
    parsed = parse_free_text(text, predictor.known_prompts)
    for note in parsed.notes:
        st.caption(note)
    examples = select_examples(predictor)
    if not parsed.descriptions and not examples:
        return
    try:
        if examples:
            has_neutral = face.neutral is not None
            classifier = example_candidates(predictor, parsed.descriptions, examples, views, has_neutral)
        else:
            classifier = predictor.prompt_classifier(parsed.descriptions, with_expressions=True)
    except UsageError as error:
        st.error(str(error))
        return
    # A description may equal the code of an expression that the run does not know; it is shown as typed.
    names = [word_for(name) if name in predictor.known_prompts else name for name in classifier.classes]
    show_bars("descriptions", names, probabilities_of(predictor, face, views, classifier))
    if face.neutral is not None and classifier.of_directions:
        st.caption("The neutral scan of the person is subtracted, so neutral is no candidate.")
    st.caption("Together with the run's expressions. A run is best at words that it was trained with.")


def select_examples(predictor: Predictor) -> Mapping[str, Sequence[UploadedExample]]:
    """Let the visitor define classes by example scans, and return the examples by class; nothing is trained."""
    stored: dict[str, list[UploadedExample]] = st.session_state.setdefault("examples", {})
    with st.expander("Or by example faces"), st.form("examples-form", clear_on_submit=True, border=False):
        name = st.text_input("Name of the class", placeholder="pain", max_chars=60).strip()
        files = st.file_uploader(
            "Example scans of it, as above; a zip may have a `neutral` scan of the same person",
            type=ACCEPTED,
            accept_multiple_files=True,
        )
        is_sent = st.form_submit_button("Add the class")
    if is_sent:
        add_examples(predictor, stored, name, files)
    for known in list(stored):
        label = f"Remove {known} ({pluralize(len(stored[known]), 'example')})"
        st.button(label, key=f"remove-{known}", on_click=remove_examples, args=(stored, known))
    return stored


def remove_examples(stored: dict[str, list[UploadedExample]], name: str) -> None:
    """Remove the examples of a class."""
    stored.pop(name, None)


def add_examples(
    predictor: Predictor, stored: dict[str, list[UploadedExample]], name: str, files: Sequence[UploadedFile]
) -> None:
    """Add uploaded scans to the examples of a class; nothing is added if one of them cannot be read."""
    if not name or not files:
        st.error("Give the name of a class and at least one scan.")
        return
    if len(files) > MAX_EXAMPLES:
        st.error(f"Send {MAX_EXAMPLES} scans or fewer at a time.")
        return
    added = []
    for file in files:
        try:
            added.append(embed_example(predictor, file.name, file.getvalue()))
        except (MeshError, UploadError) as error:
            st.error(f"{file.name}: {error}")
            return
    stored[name] = [*stored.get(name, []), *added]


main()
