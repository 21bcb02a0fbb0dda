INSERT INTO attempts (seq, {attempt_columns})
VALUES (?, {attempt_values});
