# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""What holds for the HTML of every page."""

import re
from html.parser import HTMLParser

VOID = {'meta', 'link', 'img', 'br'}
HOSTILE = '<script>alert("1")</script>'


class Checker(HTMLParser):
    """Collects tags, texts and references; fails where tags do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids = [], [], [], []
        self.headings, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for key, value in attributes if key == 'id']
        if tag == 'img':
            assert dict(attributes)['alt'] and dict(attributes)['width']

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f'</{tag}>'

    def handle_data(self, data):
        if not {'style', 'script'} & set(self.open):
            self.text.append(data)
            if self.open and self.open[-1] == 'h2':
                self.headings.append(data)


def check(html, links=()):
    """Check the HTML of a page that links to these files; returns what is in it."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == [] and html.startswith('<!DOCTYPE html>')
    assert 'script' not in checker.tags and 'link' not in checker.tags
    for key, value in checker.attributes:
        assert not key.startswith('on')
        if key in ('src', 'href', 'xlink:href', 'action', 'data', 'poster'):
            assert value.startswith(('data:image/', '#')) or value in links
        if key == 'href' and value not in links:
            assert value[1:] in checker.ids
        if key in ('aria-labelledby', 'for'):
            assert value in checker.ids
    assert len(set(checker.ids)) == len(checker.ids)
    style = re.search('<style>(.*?)</style>', html, re.DOTALL)[1]
    assert 'url(' not in style and '@import' not in style
    checker.words = ' '.join(' '.join(checker.text).split())
    return checker
