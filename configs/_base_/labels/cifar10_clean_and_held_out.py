# The student's images and the held-out ones, with the right labels: all that an agent
# learns from is there for every method.
student_labels = 'meta/student_and_held_out.txt'
