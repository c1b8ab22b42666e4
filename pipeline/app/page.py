"""The page that `smile-pipe app` serves: Streamlit runs this file from top to bottom whenever something changes.

Goes in: `AppConfig` as JSON, behind `--` on the command line. What is computed of a face is kept in its visitor's
session; what is sent is looked at and let go.
"""

import sys
from collections.abc import Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from smile_pipe.pipeline.app.analysis import EXAMPLES, FaceAnalysis, analyze_upload, example
from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.app.figures import face_figure, probabilities_figure, probabilities_over_time_figure
from smile_pipe.pipeline.app.free_text import parse_free_text
from smile_pipe.pipeline.app.uploads import ACCEPTED, UploadError
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.classifier import Head
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import as_rgb, decode_image

# Pixels; three of them fit a phone beside each other.
VIEW_WIDTH = 108
_BARE = {"displayModeBar": False}


@st.cache_resource(show_spinner="Loading the run")
def load_predictor(options: str) -> Predictor:
    """One predictor for all visitors; it is not changed by use."""
    config = AppConfig.model_validate_json(options)
    return Predictor.load(config.run, renderer=config.renderer, use_gpu=config.use_gpu)


@st.cache_resource(show_spinner=False)
def load_example(_predictor: Predictor, name: str) -> FaceAnalysis:
    """An example, made once for all visitors; of what has an underscore Streamlit takes no hash."""
    return example(_predictor, name)


def main() -> None:
    """Draw the page."""
    st.set_page_config("smile-pipe", layout="wide")
    st.title("What does this face express?")
    try:
        predictor = load_predictor(sys.argv[1])
    except UsageError as error:
        st.error(str(error))
        return
    choose_face(predictor)
    seen: FaceAnalysis | None = st.session_state.get("seen")
    if seen is None:
        st.info("Send a scan, or click on one of the examples.")
        return
    show(predictor, seen)


def choose_face(predictor: Predictor) -> None:
    """What a visitor sends or clicks on becomes the face of the session."""
    with st.sidebar:
        sent = st.file_uploader("A mesh, or a zip of a mesh and its texture, or of a sequence", type=ACCEPTED)
        st.caption("Or an example, made by this program:")
        clicked = [name for name in EXAMPLES if st.button(name, width="stretch")]
        about(predictor)
    # An upload stays in its place; it is looked at once, and again only when another one comes.
    is_new = sent is not None and sent.file_id != st.session_state.get("sent")
    if not clicked and not is_new:
        return
    try:
        with st.spinner("Looking"):
            if clicked:
                st.session_state["seen"] = load_example(predictor, clicked[0])
            elif sent is not None:
                st.session_state["sent"] = sent.file_id
                st.session_state["seen"] = analyze_upload(predictor, sent.name, sent.getvalue())
    except (MeshError, UploadError) as error:
        st.session_state.pop("seen", None)
        st.error(str(error))


def about(predictor: Predictor) -> None:
    """Which run this is."""
    run = predictor.run
    facts = [
        f"{run.recipe['name']}, {run.recipe['arch']}",
        f"learned from {pluralize(run.num_train_samples, 'sample')} of {pluralize(len(run.train_subjects), 'subject')}",
        f"sees {run.channel} images from {pluralize(len(predictor.settings.views), 'view')}",
        f"text: {run.text_source}",
    ]
    st.divider()
    st.caption("  \n".join(facts))
    st.caption("It tells what a face shows, as far as its training data go, and not what anyone feels.")


def show(predictor: Predictor, seen: FaceAnalysis) -> None:
    """The face, its views, and what they say."""
    # Two rows of two; on a phone all four stand below each other, in this order.
    beside_face, beside_views = (st.columns(2, gap="large") for _ in range(2))
    with beside_face[0]:
        frame = choose_frame(seen)
        st.plotly_chart(face_figure(seen.meshes[frame]), config=_BARE, key="face")
    # Before the verdict above them, which depends on them.
    with beside_views[0]:
        views = choose_views(predictor, seen, frame)
    if not views:
        beside_face[1].warning("Every view is left out; keep at least one.")
        return
    with beside_face[1]:
        show_expressions(predictor, seen, views)
    with beside_views[1]:
        show_words(predictor, seen, views)
    if seen.moments is not None:
        show_moments(predictor, seen, views, frame)


def choose_frame(seen: FaceAnalysis) -> int:
    """Which frame is shown; a scan has one."""
    st.subheader(seen.name, divider="gray")
    if len(seen.meshes) == 1:
        return 0
    # A slider of its own for each length: one that remembers a frame which is not there would be an error.
    return st.slider("Frame", 1, len(seen.meshes), 1, key=f"frame-of-{len(seen.meshes)}") - 1


def choose_views(predictor: Predictor, seen: FaceAnalysis, frame: int) -> list[int]:
    """The rendered views, each with a box to leave it out; the numbers of those that are kept."""
    st.caption("What the model looks at. Leave a view out and see what changes.")
    kept = []
    with st.container(horizontal=True):
        for number, view in enumerate(predictor.settings.views):
            with st.container(width=VIEW_WIDTH):
                picture = views_of(predictor, seen, view.name, frame)
                st.image(picture, width=VIEW_WIDTH, alt=f"{view.name} view")
                if st.checkbox(view.name, value=True, key=f"view-{view.name}"):
                    kept.append(number)
    return kept


def views_of(predictor: Predictor, seen: FaceAnalysis, view: str, frame: int) -> NDArray[np.uint8]:
    """In colour, and below it, where that is another image, what the model sees."""
    timeline = seen.sample.record.timeline
    moment = "" if timeline is None else f".{timeline.moments[min(frame, len(timeline.moments) - 1)]}"
    channels = dict.fromkeys(("rgb", predictor.run.channel))
    names = [f"{channel}{moment}" for channel in channels]
    return np.vstack([as_rgb(decode_image(name, seen.sample.images[view, name])) for name in names])


def show_expressions(predictor: Predictor, seen: FaceAnalysis, views: list[int]) -> None:
    """The shares of the run's expressions, the likeliest of them above as a heading."""
    names = [word_for(name) for name in predictor.head.classes]
    shares = shares_of(predictor, seen, views, predictor.head)
    st.subheader(names[int(shares.argmax())].capitalize(), divider="gray")
    show_bars("expressions", names, shares)


def shares_of(predictor: Predictor, seen: FaceAnalysis, views: list[int], head: Head) -> NDArray[np.float64]:
    """What a head says of a face by the views that are kept: a share for each of its classes."""
    return head.probabilities(predictor.fuse(seen.whole, views))[0]


def show_bars(purpose: str, names: Sequence[str], shares: NDArray[np.float64]) -> None:
    """Shares as bars; charts are told apart by what they are for, as their names may be the same."""
    bars = probabilities_figure(dict(zip(names, shares.tolist(), strict=True)))
    st.plotly_chart(bars, config=_BARE, key=f"shares-of-{purpose}")


def show_moments(predictor: Predictor, seen: FaceAnalysis, views: list[int], frame: int) -> None:
    """What each frame of a sequence says by itself, over time."""
    assert seen.moments is not None
    head = predictor.head
    st.subheader("Over time")
    shares = head.probabilities(predictor.fuse(seen.moments, views))
    names = [word_for(name) for name in head.classes]
    st.plotly_chart(probabilities_over_time_figure(seen.times, shares, names, frame), config=_BARE, key="time")
    st.caption("Each frame by itself; the bars above are of the sequence as a whole.")


def show_words(predictor: Predictor, seen: FaceAnalysis, views: list[int]) -> None:
    """Any words, and how near the face lies to each."""
    text = st.text_area("In your own words, one description a line", placeholder="a polite smile\na skeptical face")
    typed = parse_free_text(text, predictor.known)
    for note in typed.notes:
        st.caption(note)
    if not typed.words:
        return
    try:
        head = predictor.words(typed.words, beside_classes=True)
    except UsageError as error:
        st.error(str(error))
        return
    # A typed word may be the code of an expression that the run does not know, and means no more than it says.
    names = [word_for(name) if name in predictor.known else name for name in head.classes]
    show_bars("words", names, shares_of(predictor, seen, views, head))
    st.caption("Beside the expressions that the run knows. A run knows the words that it was trained with best.")


main()
