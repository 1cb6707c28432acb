// Renders the equations that pymdownx.arithmatex has marked.
document.addEventListener('DOMContentLoaded', () => {
  for (const element of document.querySelectorAll('.arithmatex')) {
    const text = element.textContent.trim()
    const display = text.startsWith('\\[')
    katex.render(text.slice(2, -2), element, { displayMode: display, throwOnError: false })
  }
})
