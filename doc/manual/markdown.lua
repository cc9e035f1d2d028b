-- SPDX-License-Identifier: GPL-2.0-or-later
-- A filter for pandoc, which makes a chapter of the manual of a Markdown document. Its ids begin with the document's
-- name, which is also the chapter's, so that each is there once in the book; links between the documents become ones within
-- it, links to other files of the tree their text.

local chapter = pandoc.path.split_extension(pandoc.path.filename(PANDOC_STATE.input_files[1]))
local chapters = { programs = 1, rest = 1, metrics = 1, performance = 1, reliability = 1, architecture = 1 }

local function header(h)
  local id = h.level == 1 and chapter or chapter .. '-' .. h.identifier
  h.identifier = ''
  return { pandoc.RawBlock('asciidoc', '[#' .. id .. ']\n'), h }
end

local function link(l)
  local file, id = l.target:match('^([^#]*)#?(.*)$')
  if l.target:match('^http:') then -- an address that programs use, not readers
    return pandoc.RawInline('asciidoc', '`+' .. l.target .. '+`')
  elseif l.target:match('^%a+:') then
    return l
  end
  local name = file == '' and chapter or file:match('([%w-]+)%.md$')
  if not chapters[name] then
    return l.content
  end
  return pandoc.Inlines { pandoc.RawInline('asciidoc', '<<' .. (id == '' and name or name .. '-' .. id) .. ','),
    pandoc.Span(l.content), pandoc.RawInline('asciidoc', '>>') }
end

-- Code is what it is, without AsciiDoc's substitutions.
local function code(c, separator)
  return pandoc.RawInline('asciidoc', '`+' .. c.text:gsub('|', separator) .. '+`')
end

-- Columns get the room of their longest word, or of a short cell. What is left of a line is for those that have cells longer than that,
-- each as much as the square root of its text, which gives long texts more lines than short ones.
local function widths(t)
  local line, short = 105, 10
  local text, least, longest = {}, {}, {}
  local function row(r, bold)
    for i, c in ipairs(r.cells) do
      local s = pandoc.utils.stringify(c.contents)
      text[i] = (text[i] or 0) + #s
      longest[i] = math.max(longest[i] or 0, #s)
      least[i] = math.max(least[i] or 0, math.min(#s, short))
      for w in s:gmatch('%S+') do
        least[i] = math.max(least[i], #w * bold)
      end
    end
  end
  for _, r in ipairs(t.head.rows) do row(r, 1.2) end
  for _, b in ipairs(t.bodies) do
    for _, r in ipairs(b.body) do row(r, 1) end
  end
  local left, wanting = line, 0
  for i = 1, #t.colspecs do
    least[i] = least[i] + 4
    left = left - least[i]
    text[i] = longest[i] > least[i] and math.sqrt(text[i]) or 0
    wanting = wanting + text[i]
  end
  local total = 0
  for i = 1, #t.colspecs do
    if left > 0 and wanting > 0 then
      least[i] = least[i] + left * text[i] / wanting
    end
    total = total + least[i]
  end
  for i, spec in ipairs(t.colspecs) do
    spec[2] = least[i] / total
  end
end

local function tables(t)
  widths(t)
  return t:walk { Code = function(c) return code(c, '\\|') end }
end

return {
  { Header = header, Table = tables },
  { Link = link, Code = function(c) return code(c, '|') end },
}
