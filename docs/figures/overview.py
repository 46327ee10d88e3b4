"""What goes in and what comes out."""

from drawing import Drawing


def draw() -> Drawing:
    """Teacher, images and budget on the left; student and report on the right."""
    drawing = Drawing(760, 260, "A teacher, images and a budget go in; a small student and a report come out")
    drawing.box(20, 20, 190, 62, "your teacher", "an API, a server or weights")
    drawing.box(20, 98, 190, 62, "your images", "some, or none at all")
    drawing.box(20, 176, 190, 62, "a budget", "queries, bytes or money")
    drawing.box(270, 20, 200, 62, "ask", "each query counted", kind="key")
    drawing.box(270, 98, 200, 62, "transfer set", "images with their answers", kind="key")
    drawing.box(270, 176, 200, 62, "train", "by the method you choose", kind="key")
    drawing.box(550, 40, 190, 72, "student", "a small network,", "safetensors")
    drawing.box(550, 146, 190, 72, "report", "accuracy, agreement,", "queries, seconds")
    for y in (51, 129, 207):
        drawing.line([(210, y), (240, y)])
    drawing.line([(240, 51), (240, 207)]).arrow((240, 51), (270, 51))
    drawing.arrow((370, 82), (370, 98)).arrow((370, 160), (370, 176)).line([(470, 207), (510, 207)])
    drawing.line([(510, 207), (510, 76)]).arrow((510, 76), (550, 76)).arrow((510, 182), (550, 182))
    return drawing
