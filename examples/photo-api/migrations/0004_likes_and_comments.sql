-- Likes and comments live with their photo, which counts them. Who wrote them may live anywhere.
CREATE TABLE likes (
    photo_id   bigint      NOT NULL REFERENCES photos ON DELETE CASCADE,
    user_id    bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (photo_id, user_id)
);

CREATE TABLE comments (
    id        bigint PRIMARY KEY DEFAULT next_id() CHECK (is_local(id)),
    photo_id  bigint NOT NULL REFERENCES photos ON DELETE CASCADE,
    user_id   bigint NOT NULL,
    user_name text   NOT NULL,
    text      text   NOT NULL CHECK (text <> '')
);

-- One photo's comments, newest first.
CREATE INDEX comments_of_photo ON comments (photo_id, id DESC);
