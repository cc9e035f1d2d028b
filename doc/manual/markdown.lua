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

-- Columns are as wide as the square root of what is in them, which gives long texts more lines than short ones, and none less than its
-- longest word takes.
local function widths(t)
  local sum, longest = {}, {}
  local function row(r)
    for i, cell in ipairs(r.cells) do
      local text = pandoc.utils.stringify(cell.contents)
      sum[i] = (sum[i] or 0) + #text
      for word in text:gmatch('%S+') do
        longest[i] = math.max(longest[i] or 1, #word)
      end
    end
  end
  for _, r in ipairs(t.head.rows) do row(r) end
  for _, b in ipairs(t.bodies) do
    for _, r in ipairs(b.body) do row(r) end
  end
  local total = 0
  for i = 1, #t.colspecs do
    sum[i] = math.max(math.sqrt(sum[i] or 1), (longest[i] or 1))
    total = total + sum[i]
  end
  for i, spec in ipairs(t.colspecs) do
    spec[2] = sum[i] / total
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
