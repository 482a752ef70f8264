// What is asked of the server.

// The answer; an error is a sentence.
export async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    throw new Error("The server does not answer; is tools/explore.py still running?");
  }
  const answer = await response.json().catch(() => ({ error: `The server answers with status ${response.status}.` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// The same, asked once a URL.
export class Answers {
  #byUrl = new Map();

  get(url) {
    if (!this.#byUrl.has(url)) {
      const answer = ask(url);
      answer.catch(() => this.#byUrl.delete(url));
      this.#byUrl.set(url, answer);
    }
    return this.#byUrl.get(url);
  }
}

export async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
