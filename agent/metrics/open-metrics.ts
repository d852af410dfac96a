/**
 * Numbers of the agent in the text format of OpenMetrics 1.0, which Prometheus reads. Pure: families are read when they are rendered, so
 * that nothing is counted twice and nothing is kept here.
 */

export interface Sample {
  readonly labels?: Readonly<Record<string, string>>
  readonly value: number
}

export interface Family {
  /** E.g. "offbox_service_memory_bytes"; ends in `_unit` where there is a unit, and never in "_total". */
  readonly name: string
  readonly type: 'gauge' | 'counter'
  /** A base unit: seconds, bytes, ratio. */
  readonly unit?: 'seconds' | 'bytes' | 'ratio'
  /** One sentence. */
  readonly help: string
  read(): Iterable<Sample>
}

/** Of the HTTP answer that carries it. */
export const OPEN_METRICS_TYPE = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

/** Families in order; each is read once a rendering. */
export class Metrics {
  readonly #families = new Map<string, Family>()

  /** @throws Error a name that breaks a rule or is taken: our own bug, found at the start */
  add(...families: Family[]): void {
    for (const family of families) {
      const { name, unit } = family
      if (!/^offbox_[a-z][a-z0-9_]*$/.test(name) || name.endsWith('_total')) throw new Error(`metric ${name}: not a name`)
      if (unit && !name.endsWith(`_${unit}`)) throw new Error(`metric ${name}: its unit is ${unit}`)
      if (this.#families.has(name)) throw new Error(`metric ${name}: defined twice`)
      this.#families.set(name, family)
    }
  }

  render(): string {
    return `${[...this.#families.values()].map(familyText).join('')}# EOF\n`
  }
}

function familyText(family: Family): string {
  const { name, type, unit, help } = family
  const head = [`# TYPE ${name} ${type}`, ...(unit ? [`# UNIT ${name} ${unit}`] : []), `# HELP ${name} ${escaped(help)}`]
  // A counter's samples, not its family, carry the suffix.
  const sampleName = type === 'counter' ? `${name}_total` : name
  const lines = [...family.read()].map(({ labels = {}, value }) => `${sampleName}${labelsText(labels)} ${numberText(value)}`)
  return `${[...head, ...lines].join('\n')}\n`
}

function labelsText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value).replaceAll('"', '\\"')}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  if (Number.isFinite(value)) return String(value)
  return value > 0 ? '+Inf' : '-Inf'
}
