# The same images, with a share of wrong labels, by default 40 %.
student_labels = 'meta/student_noisy.txt'
