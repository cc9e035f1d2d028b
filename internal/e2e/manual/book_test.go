// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestBook makes the manual twice, in directories of different names: nothing is wrong with it, the bytes are the same, each
// link in it leads somewhere, and nothing is fetched from elsewhere.
func TestBook(t *testing.T) {
	t.Parallel()
	var books [2]map[string][]byte
	for i := range books {
		books[i] = book(t, filepath.Join(t.TempDir(), fmt.Sprint("book", i)))
	}
	for name, b := range books[0] {
		if !bytes.Equal(b, books[1][name]) {
			t.Errorf("%s: two of the same source differ", name)
		}
	}
	if !bytes.HasPrefix(books[0]["remsim.pdf"], []byte("%PDF-")) {
		t.Error("remsim.pdf is none")
	}
	html := string(books[0]["remsim.html"])
	for _, f := range badLinks(html) {
		t.Error("remsim.html: " + f)
	}
	// Each chapter is there, in the order of the index.
	index, err := os.ReadFile(root + "/doc/manual/index.adoc")
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, m := range regexp.MustCompile(`(?m)^include::(?:\{chapters\}/)?([a-z-]+)\.adoc`).FindAllStringSubmatch(string(index), -1) {
		i := strings.Index(html[at:], `<h2 id="`+m[1]+`"`)
		if i < 0 {
			t.Errorf("chapter %s isn't in the book after the one before", m[1])
			continue
		}
		at += i
	}
	if at == 0 {
		t.Error("no chapters")
	}
}

// book makes the manual in dir, and returns its files.
func book(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), root+"/contrib/book", dir)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1790000000")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("contrib/book: %v\n%s", err, out)
	}
	files := map[string][]byte{}
	for _, name := range []string{"remsim.html", "remsim.pdf"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	return files
}

var (
	htmlID   = regexp.MustCompile(`\bid="([^"]+)"`)
	htmlLink = regexp.MustCompile(`<(a|link|script|img|iframe|object|embed|video|audio|source)\b[^>]*?\b(href|src|data)="([^"]*)"`)
)

// badLinks returns what is wrong with the links of a page that stands alone.
func badLinks(html string) (faults []string) {
	ids := map[string]bool{}
	for _, m := range htmlID.FindAllStringSubmatch(html, -1) {
		ids[m[1]] = true
	}
	links := htmlLink.FindAllStringSubmatch(html, -1)
	if len(links) == 0 {
		return []string{"no links"}
	}
	for _, m := range links {
		target := m[3]
		switch {
		case strings.HasPrefix(target, "#"):
			if !ids[target[1:]] {
				faults = append(faults, "link to "+target+", which isn't there")
			}
		case m[1] == "a" && strings.HasPrefix(target, "https://"), strings.HasPrefix(target, "data:"):
		default:
			faults = append(faults, fmt.Sprintf("<%s> with %s, which isn't part of the page", m[1], target))
		}
	}
	return faults
}

func TestBadLinks(t *testing.T) {
	for html, want := range map[string]int{
		`<h2 id="a">A</h2><a href="#a">a</a>`:                             0,
		`<h2 id="a">A</h2><a href="#b">b</a>`:                             1,
		`<a href="https://example.org/">x</a><img src="data:x" alt="">`:   0,
		`<link rel="stylesheet" href="https://fonts.example.org/x.css">`:  1,
		`<a href="../rest.md">x</a><a class="x" href="http://x.test/">x`:  2,
		`<img alt="parts" src="parts.svg"><script src="https://x.test/">`: 2,
		`nothing`: 1,
	} {
		if got := badLinks(html); len(got) != want {
			t.Errorf("%s: %q, want %d faults", html, got, want)
		}
	}
}

var (
	markdownCode = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`")
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownHead = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchors returns the names that Git hosts give to the headings of a page in Markdown.
func anchors(text string) (names []string) {
	text = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
	for _, m := range markdownHead.FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		name = strings.ReplaceAll(name, " ", "-")
		base := name
		for i := 1; slices.Contains(names, name); i++ {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		names = append(names, name)
	}
	return names
}

// TestMarkdownLinks checks that links between the documents, and to files of the tree, lead somewhere.
func TestMarkdownLinks(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"*.md", "doc/*.md", "contrib/*/*.md", "contrib/*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range markdownLink.FindAllStringSubmatch(markdownCode.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			there, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
				continue
			}
			if anchor == "" || there.IsDir() {
				continue
			}
			to, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(anchors(string(to)), anchor) {
				t.Errorf("%s: link to %s: no such heading", page, m[1])
			}
		}
	}
	if links < 10 {
		t.Errorf("%d links: they aren't found", links)
	}
}
