/** What an answer is made of: one sentence each, how well it is founded, and on what. Pure. */

/**
 * verified: this program checked it, with keys and digests of this home.
 * stated: somebody's word, told over an authenticated connection or read from a record that nobody signed.
 * unknown: it cannot be told, and the text says why.
 * refuted: a check failed, or two accounts contradict one another.
 */
export const STANDINGS = ['verified', 'stated', 'unknown', 'refuted'] as const
export type Standing = (typeof STANDINGS)[number]

/** What people ask, in the order in which it is answered. */
export const QUESTIONS = {
  runs: 'what runs',
  value: 'the value',
  change: 'which change put it there',
  log: 'what the audit log says of it',
  author: 'by whom',
  source: 'from which source',
  keys: 'signed by which keys',
  listed: 'listed by the trust repository',
  policy: 'let run by the policy',
  gate: 'gated on which evidence',
  since: 'tried since, and undone',
} as const
export type Question = keyof typeof QUESTIONS

export interface Statement {
  readonly question: Question
  readonly standing: Standing
  /** In words, without a full stop. */
  readonly text: string
  /** What it rests on, in words; for an unknown, what is missing. */
  readonly basis: string
  /** The same for programs. */
  readonly facts?: Readonly<Record<string, unknown>>
}

/** answered: nothing is missing or wrong. incomplete: something is unknown. refuted: something is wrong, whatever else holds. */
export type Verdict = 'answered' | 'incomplete' | 'refuted'

export interface Answer {
  readonly deviceId: string
  readonly subject: string
  readonly service: string
  /** Empty: not known. */
  readonly version: string
  readonly verdict: Verdict
  /** By question, what its statements say for programs. */
  readonly facts: Readonly<Partial<Record<Question, Readonly<Record<string, unknown>>>>>
  /** In the order of the questions. */
  readonly statements: readonly Statement[]
}

export function answerOf(about: Pick<Answer, 'deviceId' | 'subject' | 'service' | 'version'>, statements: readonly Statement[]): Answer {
  const questions = Object.keys(QUESTIONS) as Question[]
  const ordered = questions.flatMap((question) => statements.filter((one) => one.question === question))
  const facts = Object.fromEntries(
    questions.flatMap((question) => {
      const told = ordered.filter((one) => one.question === question && one.facts)
      return told.length === 0 ? [] : [[question, Object.assign({}, ...told.map((one) => one.facts))]]
    }),
  )
  return { ...about, verdict: verdictOf(ordered), facts, statements: ordered }
}

export function verdictOf(statements: readonly Statement[]): Verdict {
  if (statements.some(({ standing }) => standing === 'refuted')) return 'refuted'
  return statements.some(({ standing }) => standing === 'unknown') ? 'incomplete' : 'answered'
}

/** Something that was asked for: there, or why not. */
export type Found<T> = { readonly value: T } | { readonly missing: string }

export function had<T>(found: Found<T>): T | undefined {
  return 'value' in found ? found.value : undefined
}

/** The first digits of a digest or key: enough to compare by eye. */
export function short(hex: string): string {
  return hex.slice(0, 16)
}
