# Class names and pixel statistics of CIFAR-10, for classifiers, detectors and
# segmentors.
classes = [
    'airplane',
    'automobile',
    'bird',
    'cat',
    'deer',
    'dog',
    'frog',
    'horse',
    'ship',
    'truck',
]
pixels = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
