# UNIC's teacher dropping: those that the student follows well are dropped at random.
weighting = dict(type='TeacherDropping')
weighting_hooks = dict()
