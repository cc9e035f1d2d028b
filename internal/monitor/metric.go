// SPDX-License-Identifier: GPL-2.0-or-later

package monitor

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"remsim/internal/count"
)

// A metric is a figure that a program shows of what it has counted, an S.
type metric[S any] struct {
	name   string
	help   string
	labels []string
	kind   kind
	// samples gives values with those of labels, for a counter or gauge.
	samples func(s S, give func(value float64, labels ...string))
	// took is for a histogram.
	took func(S) count.View
}

type kind uint8

const (
	gauge kind = iota
	counter
	histogram
)

func (k kind) String() string { return [...]string{"gauge", "counter", "histogram"}[k] }

// one returns samples of a metric without labels.
func one[S any, N int | uint64](of func(S) N) func(S, func(float64, ...string)) {
	return func(s S, give func(float64, ...string)) { give(float64(of(s))) }
}

// yes is 1 for true.
func yes(b bool) int {
	if b {
		return 1
	}
	return 0
}

// each gives the values of a map, its keys being the only label.
func each[K interface {
	comparable
	String() string
}, N int | uint64](m map[K]N, give func(float64, ...string)) {
	for k, n := range m {
		give(float64(n), k.String())
	}
}

// add has a Monitor show metrics of what stats returns, which is asked once for all of them.
func add[S any](m *Monitor, metrics []metric[S], stats func() S) {
	c := &collector[S]{metrics: metrics, stats: stats}
	for _, f := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc(f.name, f.help, f.labels, nil))
	}
	m.registry.MustRegister(c)
}

// A collector shows metrics.
type collector[S any] struct {
	metrics []metric[S]
	descs   []*prometheus.Desc
	stats   func() S
}

// Describe implements prometheus.Collector.
func (c *collector[S]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector[S]) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for i, f := range c.metrics {
		if f.kind == histogram {
			v := f.took(s)
			upTo := make(map[float64]uint64, len(v.UpTo))
			for bound, n := range v.UpTo {
				upTo[bound.Seconds()] = n
			}
			ch <- prometheus.MustNewConstHistogram(c.descs[i], v.Count, v.Sum.Seconds(), upTo)
			continue
		}
		as := prometheus.GaugeValue
		if f.kind == counter {
			as = prometheus.CounterValue
		}
		f.samples(s, func(value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(c.descs[i], as, value, labels...)
		})
	}
}

// requestBuckets are for requests over HTTP.
var requestBuckets = []float64{
	100 * time.Microsecond.Seconds(), 250 * time.Microsecond.Seconds(), 500 * time.Microsecond.Seconds(),
	.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
}
