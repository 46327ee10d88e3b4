"""What MEKD sends where: the generator stands between the local images and the teacher."""

from drawing import Drawing


def draw() -> Drawing:
    """Three phases."""
    drawing = Drawing(720, 340, "MEKD: the teacher is asked about generated images only")
    for x, title in ((20, "1  train a generator"), (270, "2  ask, once an image"), (490, "3  train the student")):
        drawing.text(x, 34, title, "bold", "start")
    drawing.box(20, 60, 170, 56, "local images", "unlabelled; stay here")
    drawing.box(20, 170, 170, 56, "generator G", "answer-sized z → image", kind="key")
    drawing.box(270, 170, 160, 56, "pool", "images G(z)", kind="key")
    drawing.box(270, 60, 160, 56, "teacher", "black box, counted")
    drawing.box(490, 60, 210, 56, "answers", "in the transfer set", kind="key")
    drawing.box(490, 170, 210, 56, "student", kind="key")
    drawing.arrow((105, 116), (105, 170)).arrow((190, 198), (270, 198)).arrow((350, 170), (350, 116))
    drawing.arrow((430, 88), (490, 88)).arrow((430, 198), (490, 198)).arrow((595, 116), (595, 170))
    drawing.text(112, 148, "a GAN", "note", "start").text(604, 148, "KL of both", "note", "start")
    drawing.box(380, 262, 320, 56, "L_F: distance of two images", "G(teacher's answer) and G(student's answer)")
    drawing.line([(105, 226), (105, 290), (372, 290)]).arrow((371, 290), (380, 290)).arrow((595, 226), (595, 262))
    drawing.text(112, 284, "G again, frozen", "note", "start")
    return drawing
