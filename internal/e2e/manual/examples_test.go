// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// programs is the document whose examples stand in manual pages, too, as these have them: with neither prompts nor what is printed.
const programs = "doc/programs.md"

// examples returns a page of the commands that stand as examples in doc/programs.md. Most of them go on until they are told to end,
// and some ask for hardware, so that they are run for a second only; none may have a wrong command line.
func examples(text string) []*Page {
	p := &Page{Name: programs}
	remark := regexp.MustCompile(`(  +| # ).*`)
	in, line := false, 0
	for l := range strings.Lines(text) {
		line++
		l = strings.TrimSuffix(l, "\n")
		if strings.HasPrefix(l, "#") {
			in = l == "### Examples"
		}
		command := strings.TrimPrefix(l, "    ")
		last := len(p.Steps) - 1
		switch {
		case !in:
		case last >= 0 && strings.HasSuffix(p.Steps[last].Text, "\\"):
			p.Steps[last].Text += "\n" + command
		case regexp.MustCompile(`^(remsim-|printf |\{ |[A-Z_]+=\S+ remsim-)`).MatchString(command):
			p.Steps = append(p.Steps, Step{Line: line, Text: remark.ReplaceAllString(command, "")})
		}
	}
	setup := `mkdir -p /var/lib/remsim/bankd /var/lib/remsim/clients && echo '"1","0","ACS"' | tee bankd_pcsc_slots.csv >second.csv && echo 2,0,23,1 >maps.csv`
	steps := []Step{{Kind: Setup, Text: setup}}
	for _, s := range p.Steps {
		// What timeout ends has status 124.
		s.Text = fmt.Sprintf("timeout --kill-after=20 1 sh -c %s </dev/null; s=$?; [ $s -ne 2 ] && [ $s -lt 125 ]", Quote(s.Text))
		s.Shown = make([]Output, 1)
		steps = append(steps, s)
	}
	p.Steps = steps
	return []*Page{p}
}
