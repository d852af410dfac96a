/** An answer as people read it. */
import { type Answer, QUESTIONS, type Question, type Standing } from './statement.ts'

const WORDS: Readonly<Record<Standing, string>> = { verified: 'verified', stated: 'stated', unknown: 'NOT KNOWN', refuted: 'REFUTED' }

const VERDICTS = {
  answered: 'Nothing is missing and nothing contradicts.',
  incomplete: 'Part of the answer is not known.',
  refuted: 'SOMETHING IS WRONG: what is shown does not fit together, see REFUTED.',
} as const

export function answerText({ deviceId, subject, service, version, verdict, statements }: Answer): string {
  const what = subject === service ? '' : `${subject} belongs to `
  const head = `${what}${service}${version ? ` ${version}` : ''} on ${deviceId}`
  const questions = (Object.keys(QUESTIONS) as Question[]).filter((question) => statements.some((one) => one.question === question))
  const parts = questions.map((question) => {
    const lines = statements
      .filter((one) => one.question === question)
      .flatMap(({ standing, text, basis }) => [`  ${WORDS[standing].padEnd(9)} ${text}`, `            rests on: ${basis}`])
    return [QUESTIONS[question].toUpperCase(), ...lines].join('\n')
  })
  const count = (standing: Standing) => statements.filter((one) => one.standing === standing).length
  const sum = `${count('verified')} statements verified here, ${count('stated')} on somebody's word, ${count('unknown')} not known, ${count('refuted')} refuted. ${VERDICTS[verdict]}`
  return [head, ...parts, sum].join('\n\n')
}
