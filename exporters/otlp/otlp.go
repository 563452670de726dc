// SPDX-License-Identifier: Apache-2.0

// Package otlp sends the series, and findings and samples of drops as events, to an OpenTelemetry collector.
//
// What it sends and where is said by the standard OTEL_* variables. Whatever state the collector is in, nobody here waits
// for it: what cannot be delivered in time is given up and counted.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/bridgewatch/bridgewatch/enrich"
	"github.com/bridgewatch/bridgewatch/enrich/findings"
	"github.com/bridgewatch/bridgewatch/exporters"
	"github.com/bridgewatch/bridgewatch/loader"
)

// scope is what all metrics and events are published under.
const scope = "github.com/bridgewatch/bridgewatch"

// batchPoints bounds the data points of a request. gRPC servers refuse requests above 4 MiB unless told otherwise, and a
// point with all its attributes takes 300 to 600 bytes.
const batchPoints = 4000

// Config is what an exporter needs of its surroundings.
type Config struct {
	Store   *exporters.Store
	Collect func() // brings the store up to date; called before each export of metrics
	Version string // of the agent
	Log     *slog.Logger
}

// Exporter sends metrics, events, or both. A nil one sends nothing, and all of its methods may be called.
type Exporter struct {
	meter   *sdkmetric.MeterProvider // nil: metrics are not sent
	logger  *sdklog.LoggerProvider   // nil: events are not sent
	events  *events                  // nil: events are not sent
	points  *delivery
	records *delivery
}

// Open starts what the OTEL_* variables ask for. It returns nil, and no error, if they ask for nothing, and an error that
// names the variable if one has a value that makes no sense. It does not wait for a collector.
func Open(ctx context.Context, config Config) (*Exporter, error) {
	asked, err := readEnvironment()
	if err != nil || asked.metrics == "" && asked.logs == "" {
		return nil, err
	}
	agent, err := describe(ctx, config.Version)
	if err != nil {
		return nil, err
	}
	e := &Exporter{
		points:  newDelivery(config.Log.With("otlp", "metrics")),
		records: newDelivery(config.Log.With("otlp", "logs")),
	}
	handleErrors(config.Log.With("otlp", "sdk"))
	if err := e.open(ctx, config, asked, agent); err != nil {
		return nil, err
	}
	config.Log.Info("otlp export is on", "metrics", asked.metrics, "logs", asked.logs)
	if asked.delta {
		config.Log.Warn("counters and histograms are exported cumulatively, whatever temporality is preferred")
	}
	return e, nil
}

// open makes both exporters before any provider: one of metrics collects from its making on, and at its end.
func (e *Exporter) open(ctx context.Context, config Config, asked environment, agent *resource.Resource) error {
	var points sdkmetric.Exporter
	var records sdklog.Exporter
	var err error
	if asked.logs != "" {
		if records, err = openLogExporter(ctx, asked.logs); err != nil {
			return fmt.Errorf("open OTLP exporter for logs: %w", err)
		}
	}
	if asked.metrics != "" {
		if points, err = openMetricExporter(ctx, asked.metrics); err != nil {
			err = fmt.Errorf("open OTLP exporter for metrics: %w", err)
			if records != nil {
				err = errors.Join(err, records.Shutdown(ctx))
			}
			return err
		}
	}
	if points != nil {
		_, exponential := points.Aggregation(sdkmetric.InstrumentKindHistogram).(sdkmetric.AggregationBase2ExponentialHistogram)
		// A producer's metrics do not come from the SDK's instruments, which have a limit of 2,000 attribute sets each. The
		// store has a limit of its own.
		e.meter = sdkmetric.NewMeterProvider(sdkmetric.WithResource(agent), sdkmetric.WithReader(sdkmetric.NewPeriodicReader(
			metricExporter{points, e.points},
			sdkmetric.WithProducer(newProducer(config, exponential)),
			sdkmetric.WithMaxExportBatchSize(batchPoints),
		)))
	}
	if records != nil {
		e.events = newEvents(config.Store, asked.queue)
		e.logger = sdklog.NewLoggerProvider(sdklog.WithResource(agent), sdklog.WithProcessor(sdklog.NewBatchProcessor(
			logExporter{records, e.records, &e.events.pending},
			sdklog.WithMaxQueueSize(asked.queue),
		)))
		e.events.logger = e.logger.Logger(scope)
	}
	return nil
}

// handleErrors logs what the SDK has to say beyond failed exports, which do not get that far. The SDK has one handler for
// the whole process and would write to stderr.
func handleErrors(log *slog.Logger) {
	sdk := newDelivery(log)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if !errors.Is(err, context.Canceled) { // that is Close
			sdk.done(0, err, time.Now())
		}
	}))
}

// describe says who sends: the agent. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word.
func describe(ctx context.Context, version string) (*resource.Resource, error) {
	attributes := []attribute.KeyValue{semconv.ServiceName("bridgewatch"), semconv.ServiceVersion(version)}
	if host, err := os.Hostname(); err == nil {
		// There is one agent on a host.
		attributes = append(attributes, semconv.HostName(host), semconv.ServiceInstanceID(host))
	}
	r, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(attributes...), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return r, nil
}

// AddDrops sends samples of them as events, and never waits. It must not be called concurrently with itself.
func (e *Exporter) AddDrops(drops []enrich.Drop) {
	if e == nil || e.events == nil {
		return
	}
	e.events.addDrops(drops, time.Now())
}

// AddFindings sends all of them as events, and never waits.
func (e *Exporter) AddFindings(changes []findings.Change) {
	if e == nil || e.events == nil {
		return
	}
	for i := range changes {
		e.events.addFinding(&changes[i], time.Now())
	}
}

// Losses returns how many data points and events could not be delivered, by place.
func (e *Exporter) Losses() []loader.Loss {
	if e == nil {
		return nil
	}
	var losses []loader.Loss
	if e.meter != nil {
		losses = append(losses, loader.Loss{Place: "metrics_export", Count: e.points.lost.Load()})
	}
	if e.logger != nil {
		losses = append(losses,
			loader.Loss{Place: "logs_export", Count: e.records.lost.Load()},
			loader.Loss{Place: "logs_queue_full", Count: e.events.refused.Load()})
	}
	return losses
}

// Close sends the last values and what is queued, and gives up when ctx ends. It calls Collect once more.
func (e *Exporter) Close(ctx context.Context) error {
	if e == nil {
		return nil
	}
	var group sync.WaitGroup
	var metrics, logs error
	if e.meter != nil {
		group.Go(func() { metrics = e.meter.Shutdown(ctx) })
	}
	if e.logger != nil {
		group.Go(func() { logs = e.logger.Shutdown(ctx) })
	}
	group.Wait()
	if err := errors.Join(metrics, logs); err != nil {
		return fmt.Errorf("end OTLP exports: %w", err)
	}
	return nil
}
