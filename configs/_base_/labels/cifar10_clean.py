# The student's images of the sample of CIFAR-10, with the right labels.
student_labels = 'meta/student.txt'
