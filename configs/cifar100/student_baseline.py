# The student without teachers, on the same data and schedule.
_base_ = './{{$STUDENT:resnet56}}.py'

# Part of the work dir's name.
variant = '{{$STUDENT:resnet56}}'
