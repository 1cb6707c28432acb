# The student's images with a share of wrong labels, and the held-out ones with the right ones.
student_labels = 'meta/student_noisy_and_held_out.txt'
